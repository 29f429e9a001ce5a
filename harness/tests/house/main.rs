//! What holds of the repository's own files: the sources' house rules, and the workflows. One program, so that it is
//! linked once.

mod sources;
mod workflows;
