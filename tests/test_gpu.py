"""A GPU gives what a CPU gives; skipped where there is none"""
import numpy as np, pytest, torch

from privkd_nb.data.encoding import Encoded
from privkd_nb.init.depth import DEPTH_RULES, MEASURED, MERGED
from privkd_nb.init.spec import WIDTH_METHODS
from privkd_nb.init.student import init_student
from privkd_nb.models.tiny import tiny_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='skipped: no GPU')
STARTS = ['shuffled', 'permuted', 'noise', 'copy_ft:greedy/refit', *(f'copy_ft:{rule}' for rule in [*DEPTH_RULES, *MEASURED, *MERGED] if rule not in ('all', 'random'))]


@pytest.mark.parametrize('word', [*(f'{w}/layers=2' for w in STARTS), *(f'copy_ft:all/width=32:{m}' for m in WIDTH_METHODS)])
def test_a_teacher_on_a_gpu_gives_the_same_student(word):
    g, drop = np.random.default_rng(0), dict(hidden_dropout_prob=0., attention_probs_dropout_prob=0.)
    sample = Encoded(g.integers(5, 100, (24, 7)).tolist(), g.integers(0, 3, 24).tolist(), ['en', 'de']*12, range(24), pad_id=1)
    teacher = tiny_model(layers=4, labels=3, seed=1, **drop)
    here, _ = init_student(word, teacher, sample=sample)
    there, _ = init_student(word, teacher.cuda(), sample=sample)
    assert there.device == here.device
    for (name, a), b in zip(here.state_dict().items(), there.state_dict().values()): torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4, msg=f'{word}: {name}')
