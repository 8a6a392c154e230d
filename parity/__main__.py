import os
import signal
import sys

# Until the command line is there to do it: a Ctrl-C among the imports is no traceback. ``multiprocessing`` imports this
# module into its workers, under another name.
if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))

    from .cli import main

    sys.exit(main())
