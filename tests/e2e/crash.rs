//! kill -9: what was answered is there, under the same name and number.
