//! The image: what only the bare machine needs, around the library that does the work.
//!
//! `boot/entry.S` calls [`image_main`] in 64-bit mode on the boot stack, with interrupts off.
#![no_std]
#![no_main]

use hv::{
    boot::{self, BootInfo, entry::Image, phys::BootMap, strings::Strings},
    cmdline::Options,
    dev::console,
};

/// The first Rust function. `protocol` says who loaded us, `info` where it left its information.
#[unsafe(no_mangle)]
extern "sysv64" fn image_main(protocol: u32, info: u32) -> ! {
    // Until the command line is read: complaints go where most machines have a serial port.
    let options = Options::default();
    console::init(options.com1, options.loglvl);
    // SAFETY: the boot page tables hold until `start` replaces them, and the view is gone by then.
    let memory = unsafe { BootMap::new() };
    match BootInfo::read(&memory, protocol, info.into(), Image::get().phys(), &mut Strings::take()) {
        Ok(info) => boot::start(&info, memory),
        Err((why, cmdline)) => {
            boot::read_options(cmdline);
            boot::fail(format_args!("{why}"))
        }
    }
}

/// The heap, over frames.
#[global_allocator]
static HEAP: hv::mm::heap::Heap = hv::mm::heap::Heap::new();

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    hv::panic::panicked(info)
}
