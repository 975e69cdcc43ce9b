//! The custom resource types
