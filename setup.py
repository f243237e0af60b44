"Packaging: everything about the project is read from settings.ini."
from configparser import ConfigParser
from pathlib import Path
import shutil

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

root = Path(__file__).parent
cfg = ConfigParser(delimiters=['='])
cfg.read(root/'settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']


class BuildWithNotebooks(build_py):
    "Puts the notebooks that commands execute beside the modules, so that they are found in an installed package"
    def run(self):
        super().run()
        if self.editable_mode: return
        to = Path(self.build_lib)/cfg['lib_path']/'notebooks'
        to.mkdir(parents=True, exist_ok=True)
        for name in ('run.ipynb', 'bench.ipynb', 'bench_whole.ipynb'): shutil.copy(root/'nbs'/name, to/name)


setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'],
    long_description=(root/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    url=cfg['git_url'], author=cfg['author'], author_email=cfg['author_email'], keywords=cfg['keywords'].split(),
    license='Apache-2.0', license_files=['LICENSE'],
    classifiers=['Development Status :: 3 - Alpha', 'Intended Audience :: Developers', 'Intended Audience :: Science/Research',
                 'Programming Language :: Python :: 3', 'Topic :: Scientific/Engineering :: Artificial Intelligence'],
    packages=find_packages(include=[cfg['lib_path'], cfg['lib_path']+'.*']),
    package_data={cfg['lib_path']: ['py.typed', 'playground/*.json', 'sample/*', 'plot_view.js', 'report.js', 'report.css', 'choices.js', 'choices.css', 'web/*', 'file_figures.js', 'file_explorer.js', 'jupyter/voila/templates/privkd/*']},
    include_package_data=False, zip_safe=False,
    python_requires='>='+cfg['min_python'], install_requires=cfg['requirements'].split(),
    extras_require={**{k: cfg[f'{k}_requirements'].split() for k in 'notebook onnx ray stats bench tensorboard wandb mlflow trackio'.split()},
                    'dev': ' '.join(cfg[f'{k}_requirements'] for k in 'dev onnx ray stats bench'.split()).split()},
    entry_points={'console_scripts': cfg['console_scripts'].split(), 'nbdev': [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"],
                  'nbconvert.exporters': ['privkd_html=privkd_nb.figures.pages:PageExporter']},
    cmdclass={'build_py': BuildWithNotebooks},
)
