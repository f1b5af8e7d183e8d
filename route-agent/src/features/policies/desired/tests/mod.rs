//! The policies' meaning: row by row, and for whatever may come.

mod attached;
mod bare;
mod floods;
pub mod oracle;
pub mod random;
mod rows;
pub mod table;
mod tier_rows;
mod words;
