//! What is left after a crash, damage or a second owner.

use super::*;
