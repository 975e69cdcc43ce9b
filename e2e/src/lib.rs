//! Tests from outside: official clients, real clusters
