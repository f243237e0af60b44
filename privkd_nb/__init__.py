"""Multilingual knowledge distillation: what are the student's initial weights worth?

The names below are imported from their modules on first use, so that importing the package costs nothing.
"""
__version__ = "0.1.0"

from importlib import import_module

_WHERE = {
    # a run
    'RunConfig': 'jobs.config', 'distil': 'jobs.distil', 'BackgroundRun': 'jobs.background', 'StoppedError': 'jobs.distil', 'Run': 'record',
    'InputError': 'core', 'find_run': 'finding', 'list_runs': 'analysis.overview', 'Classifier': 'evaluation.texts',
    'load_data': 'jobs.fine_tune', 'load_models': 'jobs.fine_tune', 'language_table': 'jobs.report', 'summary': 'jobs.report',
    'curves_figure': 'figures.run', 'languages_figure': 'figures.run', 'monitor_figure': 'figures.run', 'speed_table': 'evaluation.latency', 'Monitor': 'apps.monitor', 'StudyMonitor': 'apps.study_monitor',
    # many runs
    'compare': 'apps.compare', 'Comparison': 'apps.compare', 'mirror': 'jobs.mirror', 'grid': 'jobs.study', 'run_study': 'jobs.study', 'run_configs': 'studies.engines', 'distil_jointly': 'jobs.joint',
    'Study': 'studies.running', 'write_report': 'report.write', 'load_runs': 'analysis.load', 'choose': 'analysis.compare', 'overall': 'analysis.compare', 'by_language': 'analysis.compare',
    'differences': 'analysis.compare', 'teacher_scores': 'analysis.compare', 'training_band': 'analysis.curves', 'runs_by_seed': 'analysis.examples',
    'example_differences': 'analysis.examples', 'disagreements': 'analysis.examples', 't_interval': 'analysis.stats', 'Explorer': 'apps.explorer', 'save_explorer': 'apps.explorer_file',
    'tests_against': 'analysis.against', 'verdict': 'analysis.against', 'grouped': 'analysis.grouped',
    'write_report': 'report.write', 'StudyReport': 'report.parts', 'PaperTable': 'figures.paper_tables',
    'compact': 'analysis.compact', 'recommend': 'analysis.recommend', 'Recommendation': 'analysis.recommend', 'pareto_figure': 'figures.pareto',
    # use
    'Student': 'runtime', 'export_run': 'export.chain', 'read_waterfall': 'export.stages', 'waterfall_figure': 'figures.waterfall', 'push': 'export.push',
    # figures and tables
    'use_notebook_renderer': 'figures.style', 'scores_figure': 'figures.comparisons', 'heatmap_figure': 'figures.comparisons',
    'training_figure': 'figures.comparisons', 'fraction_figure': 'figures.comparisons', 'results_figure': 'figures.comparisons',
    'layermap_figure': 'figures.layermap', 'save_figure': 'figures.save', 'results_table': 'figures.save', 'to_latex': 'figures.save',
    # data
    'load_task': 'data.tasks', 'Task': 'data.tasks', 'data_report': 'data.report', 'encode': 'data.encoding', 'playground_rows': 'data.playground', 'same_label_pairs': 'data.playground',
    # models and losses
    'load_encoder': 'models.loading', 'load_tokenizer': 'models.loading', 'playground_base': 'models.playground_base', 'InitSpec': 'init.spec',
    'init_student': 'init.student', 'InitCard': 'init.card', 'resolve_layers': 'init.depth', 'parse_losses': 'losses.terms', 'term': 'losses.terms',
    'check_term': 'losses.laws', 'check_training': 'train.matrix',
    # training by hand
    'DistillTrainer': 'train.trainer', 'training_args': 'train.arguments', 'evaluate_by_language': 'evaluation.scores',
}
__all__ = sorted(_WHERE)


def __getattr__(name):
    if name not in _WHERE: raise AttributeError(f"module 'privkd_nb' has no attribute {name!r}")
    return getattr(import_module(f'privkd_nb.{_WHERE[name]}'), name)


def __dir__(): return sorted([*globals(), *_WHERE])
