"""Multilingual knowledge distillation: what are the student's initial weights worth?

The names below are imported from their modules on first use, so that importing the package costs nothing.
"""
__version__ = "0.1.0"

from importlib import import_module

_WHERE = {
    'RunConfig': 'config', 'distil': 'job', 'language_table': 'job', 'summary': 'job',
    'load_task': 'tasks', 'Task': 'tasks', 'Run': 'record', 'InputError': 'core',
    'InitSpec': 'spec', 'parse_losses': 'terms', 'resolve_layers': 'depth', 'init_student': 'initialization', 'InitCard': 'initialization',
    'load_encoder': 'loading', 'load_tokenizer': 'loading', 'playground_base': 'base', 'encode': 'batches',
    'DistillTrainer': 'trainer', 'training_args': 'trainer', 'evaluate_by_language': 'evaluation',
    'curves_figure': 'plots', 'languages_figure': 'plots', 'load_data': 'job', 'load_models': 'job', 'BackgroundRun': 'background',
    'Study': 'analysis', 'load_runs': 'analysis', 'overall': 'analysis', 'differences': 'analysis', 'Explorer': 'explorer', 'Monitor': 'monitor',
}
__all__ = sorted(_WHERE)


def __getattr__(name):
    if name not in _WHERE: raise AttributeError(f"module 'privkd_nb' has no attribute {name!r}")
    return getattr(import_module(f'privkd_nb.{_WHERE[name]}'), name)


def __dir__(): return sorted([*globals(), *_WHERE])
