"""The I/O of signals: fetching metric pages, and asking a silent server whether it lives."""
