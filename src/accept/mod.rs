//! The only event loop: listening sockets in, sessions handed to fixed workers.
