"Trains a small student in the folder given, from the last checkpoint if there is one; for test_resume.py."
import sys, time
from pathlib import Path

from transformers import TrainerCallback
from transformers.utils import logging

from privkd_nb.data.encoding import encode
from privkd_nb.init.student import init_student
from privkd_nb.jobs.fine_tune import fit
from privkd_nb.record import History
from privkd_nb.init.spec import InitSpec
from privkd_nb.data.tasks import load_task
from privkd_nb.models.tiny import tiny_model
from privkd_nb.models.tokenizer import train_tokenizer
from privkd_nb.train.trainer import DistillTrainer
from privkd_nb.train.arguments import training_args


class Slowly(TrainerCallback):
    def on_step_end(self, *a, **k): time.sleep(.15)


def main(folder, slow=False):
    task = load_task(languages='en,sw', fraction=.15)
    tok = train_tokenizer(load_task(languages='en,sw').train.text, 500)
    teacher = tiny_model(layers=4, labels=task.labels, vocab_size=500)
    student, card = init_student(InitSpec('scratch', config=dict(hidden_size=16, intermediate_size=32)), teacher)
    enc = encode(task.train, tok, task.labels)
    trainer = DistillTrainer(student, teacher, 'paper', card.layers, history=History(folder/'history.jsonl'), train_languages=['en'], train_dataset=enc,
                             eval_dataset=encode(task.validation[:40], tok, task.labels), processing_class=tok, callbacks=[Slowly()] if slow else [],
                             args=training_args(folder/'checkpoints', len(enc), epochs=4, lr=2e-3, batch_size=16, micro_batches=2, evals=8, use_cpu=True, seed=5))
    fit(trainer, folder/'checkpoints')
    trainer.model.save_pretrained(folder/'end')
    trainer.history.frame().to_parquet(folder/'history.parquet')


if __name__ == '__main__':
    logging.set_verbosity_error()
    main(Path(sys.argv[1]), len(sys.argv) > 2)
