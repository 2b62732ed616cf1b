//! What can be seen from outside, and the rules the tree keeps.

mod layering;
