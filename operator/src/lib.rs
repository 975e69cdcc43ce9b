//! The controller of the three custom resources
