//! Which agent is calling, and by what evidence.
