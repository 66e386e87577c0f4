"""What every test needs: an interrupt that interrupts."""

import signal

# A shell that starts this in the background hands down an ignored SIGINT; tests of Ctrl-C would then wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)
