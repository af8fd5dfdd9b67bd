//! The heap of the image, over frames.
