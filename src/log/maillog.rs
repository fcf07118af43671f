//! The lines operators grep: one function per line. Fields and their order are an interface.
