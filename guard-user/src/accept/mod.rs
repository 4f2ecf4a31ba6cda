//! Takes steered connections from the kernel and says who connected to which server.
