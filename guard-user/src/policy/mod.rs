//! What an agent may do. Pure: no I/O after loading, no clock.
