//! References to a field of an item: `op://<vault>/<item>/[section/]field[?attribute=otp]`.
