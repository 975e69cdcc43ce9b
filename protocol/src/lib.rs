//! Words on the wire and in a message: no I/O, no clock
