//! The Podwire CNI plugin.
