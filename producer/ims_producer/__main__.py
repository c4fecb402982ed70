"""`python -m ims_producer`: the same as `ims-import`."""

from ims_producer.cli import main

main()
