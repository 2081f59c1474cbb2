//! What a model declares about itself: the manifest beside its file.
