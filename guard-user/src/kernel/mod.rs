//! Loads, attaches, pins and watches the kernel programs; the only module that talks to the kernel about steering.
