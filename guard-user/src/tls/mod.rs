//! Ends TLS with the operator's certificate or the local CA's.
