"""`python -m privkd_nb.cli`, which launchers such as torchrun start"""
import sys
from .console import main

if __name__ == '__main__': sys.exit(main())
