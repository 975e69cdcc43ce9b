//! One TCP connection: bytes to frames, an accept loop, a client
