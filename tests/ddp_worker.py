"Trains tiny students without dropout, one after the other, on as many processes as are started, and writes their weights and histories; for test_ddp.py."
import sys
from pathlib import Path

from privkd_nb.data.encoding import encode
from privkd_nb.init.student import init_student
from privkd_nb.distributed import is_main
from privkd_nb.record import History
from privkd_nb.init.spec import InitSpec
from privkd_nb.data.tasks import load_task
from privkd_nb.models.tiny import tiny_model
from privkd_nb.models.tokenizer import train_tokenizer
from privkd_nb.train.trainer import DistillTrainer
from privkd_nb.train.efficiency import Efficiency
from privkd_nb.train.arguments import training_args

CASES = dict(paper=dict(losses='paper'), cached_and_accumulated=dict(losses='ce,logits', cache=True, micro_batches=2), narrow=dict(losses='hidden', config=dict(hidden_size=16, intermediate_size=32)),
             staged=dict(losses='ce,kl,hidden', micro_batches=2, config=dict(hidden_size=16, intermediate_size=32), stages=.5, schedule='hidden=before:0.3', meter=1))


def main(folder, losses, micro_batches=1, cache=False, config=None, **own):
    off = dict(hidden_dropout_prob=0., attention_probs_dropout_prob=0.)
    task = load_task(languages='en,hi,sw', fraction=.1)
    tok = train_tokenizer(load_task(languages='en,hi,sw').train.text, 500)
    train, val = (encode(d, tok, task.labels, 64) for d in (task.train, task.validation))
    teacher = tiny_model(layers=4, labels=task.labels, vocab_size=500, seed=1, **off)
    student, card = init_student(InitSpec('scratch', config=config), teacher)
    args = training_args(folder/'checkpoints', len(train), 1, lr=1e-3, batch_size=8, micro_batches=micro_batches, evals=1)
    trainer = DistillTrainer(student, teacher, losses, card.layers, history=History(folder/'history.jsonl' if is_main() else None), train_languages=task.train_languages,
                             efficiency=Efficiency(cache=folder/'cache' if cache else None), args=args, train_dataset=train, eval_dataset=val, processing_class=tok, **own)
    trainer.train()
    if is_main(): trainer.save_model(folder/'model')
    assert len(train) % 8 not in (0, 7), 'the last batch of an epoch must be a smaller one'


if __name__ == '__main__':
    for name, case in CASES.items(): main(Path(sys.argv[1])/name, **case)
