"""The console command `privkd`"""
from .console import main
