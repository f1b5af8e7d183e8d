//! The policies' meaning: row by row, and for whatever may come.

mod attached;
mod random;
mod rows;
