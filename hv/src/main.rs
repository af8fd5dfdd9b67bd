//! The image entry point.
#![no_std]
#![no_main]
