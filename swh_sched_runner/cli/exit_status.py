"""What the exit statuses mean. Those from 64 on are of sysexits.h; from 128 on, 128 and the number of a signal."""

OK = 0
FAILED = 1
USAGE = 64
UNAVAILABLE = 69
CONFIGURATION = 78
INTERRUPTED = 130
READER_GONE = 141
