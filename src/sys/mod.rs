//! Every system call and every `unsafe`: owned std types in and out, EINTR retried, no policy.
