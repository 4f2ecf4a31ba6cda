//! How often an agent may do it: sliding windows. Pure: time comes in as an argument.
