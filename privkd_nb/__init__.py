"""Multilingual knowledge distillation: what are the student's initial weights worth?

The names below are imported from their modules on first use, so that importing the package costs nothing.
"""
__version__ = "0.1.0"

from importlib import import_module

_WHERE = {
    'RunConfig': 'jobs.config', 'distil': 'jobs.distil', 'language_table': 'jobs.report', 'summary': 'jobs.report',
    'load_task': 'data.tasks', 'Task': 'data.tasks', 'data_report': 'data.report', 'Run': 'record', 'InputError': 'core',
    'InitSpec': 'init.spec', 'parse_losses': 'losses.terms', 'term': 'losses.terms', 'check_term': 'losses.laws', 'resolve_layers': 'init.depth', 'init_student': 'init.student', 'InitCard': 'init.student',
    'load_encoder': 'models.loading', 'load_tokenizer': 'models.loading', 'playground_base': 'models.playground_base', 'encode': 'data.encoding',
    'DistillTrainer': 'train.trainer', 'training_args': 'train.arguments', 'evaluate_by_language': 'evaluation.scores',
    'curves_figure': 'figures.run', 'languages_figure': 'figures.run', 'load_data': 'jobs.fine_tune', 'load_models': 'jobs.fine_tune', 'BackgroundRun': 'jobs.background',
    'Study': 'analysis.load', 'load_runs': 'analysis.load', 'overall': 'analysis.compare', 'differences': 'analysis.compare', 'Explorer': 'apps.explorer', 'Monitor': 'apps.monitor',
}
__all__ = sorted(_WHERE)


def __getattr__(name):
    if name not in _WHERE: raise AttributeError(f"module 'privkd_nb' has no attribute {name!r}")
    return getattr(import_module(f'privkd_nb.{_WHERE[name]}'), name)


def __dir__(): return sorted([*globals(), *_WHERE])
