//! The storage engine: log, index, recovery
