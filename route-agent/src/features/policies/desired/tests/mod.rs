//! The policies' meaning: row by row, and for whatever may come.

mod attached;
mod floods;
mod oracle;
mod random;
mod rows;
mod tier_rows;
mod words;
