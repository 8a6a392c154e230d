import sys

try:
    from .cli.main import main

    code = main()
except KeyboardInterrupt:  # while Python was importing
    print("ltx2-mlx: stopped; nothing was written", file=sys.stderr)
    code = 130
sys.exit(code)
