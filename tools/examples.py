"Run the examples of the pages as nbdev_test does, with its arguments, in less time"
import gc

import nbdev.test
from nbdev.test import nbdev_test, test_nb as run_page


def test_nb(*args, **kwargs):
    "Run one page, with all that is imported out of every garbage collection, of which each training asks for four, and short measurements of speed"
    import privkd_nb.jobs.distil, privkd_nb.models.tiny
    from privkd_nb.export.chain import export_run
    export_run.__kwdefaults__['seconds'] = .1     # of each measurement of speed, here where none is shown
    gc.collect()
    gc.freeze()
    return run_page(*args, **kwargs)


if __name__ == '__main__':
    import examples     # the worker processes find it by this name: a page that runs there is their __main__
    nbdev.test.test_nb = examples.test_nb
    nbdev_test()
