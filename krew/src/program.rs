//! What a program file is: the system it is for, and that it can start there.
//!
//! Two things would be seen only by who installs it: a Linux program that wants a dynamic loader, and one for an arm64
//! Mac whose signature is not of its bytes, which the kernel kills. Both are made on the way from linker to archive.

use sha2::{Digest as _, Sha256};

use crate::platform::Platform;

/// Says what keeps this file from being the program of that platform.
///
/// # Errors
/// The reason, in words.
pub fn suits(platform: Platform, file: &[u8]) -> Result<(), String> {
    let (found, sound) = match file {
        [0x7f, b'E', b'L', b'F', ..] => ("linux", elf(platform.arch, file)),
        [b'M', b'Z', ..] => ("windows", portable_executable(platform.arch, file)),
        [0xcf, 0xfa, 0xed, 0xfe, ..] => ("darwin", mach_o(platform.arch, file)),
        _ => return Err("the program is of no known kind".to_owned()),
    };
    if found != platform.os {
        return Err(format!("the program is for {found}"));
    }
    match sound {
        Some(Ok(())) => Ok(()),
        Some(Err(why)) => Err(format!("the program {why}")),
        None => Err("the program is cut off".to_owned()),
    }
}

/// `None` where the file ends too early.
type Verdict = Option<Result<(), &'static str>>;

const OTHER_MACHINE: Verdict = Some(Err("is for another machine"));

fn little<const N: usize>(file: &[u8], at: usize) -> Option<[u8; N]> {
    file.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(file: &[u8], at: usize) -> Option<u16> {
    little(file, at).map(u16::from_le_bytes)
}

fn u32_at(file: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(little(file, at)?)).ok()
}

fn big_u32_at(file: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32::from_be_bytes(little(file, at)?)).ok()
}

fn elf(arch: &str, file: &[u8]) -> Verdict {
    let machine = if arch == "arm64" { 0xb7 } else { 0x3e };
    if u16_at(file, 18)? != machine {
        return OTHER_MACHINE;
    }
    let headers = usize::try_from(u64::from_le_bytes(little(file, 32)?)).ok()?;
    let (size, count) = (u16_at(file, 54)?, u16_at(file, 56)?);
    for index in 0..count {
        let interpreter = 3;
        if u32_at(file, headers + usize::from(index) * usize::from(size))? == interpreter {
            return Some(Err("is not static"));
        }
    }
    Some(Ok(()))
}

fn portable_executable(arch: &str, file: &[u8]) -> Verdict {
    let header = u32_at(file, 0x3c)?;
    let machine = if arch == "arm64" { 0xaa64 } else { 0x8664 };
    if file.get(header..header + 4)? != b"PE\0\0" || u16_at(file, header + 4)? != machine {
        return OTHER_MACHINE;
    }
    Some(Ok(()))
}

fn mach_o(arch: &str, file: &[u8]) -> Verdict {
    let machine = if arch == "arm64" { 0x0100_000c } else { 0x0100_0007 };
    if u32_at(file, 4)? != machine {
        return OTHER_MACHINE;
    }
    let mut command = 32;
    for _ in 0..u32_at(file, 16)? {
        let code_signature = 0x1d;
        if u32_at(file, command)? == code_signature {
            return signed(file, u32_at(file, command + 8)?);
        }
        command += u32_at(file, command + 4)?;
    }
    // The kernel asks for one on arm64 only.
    Some(if arch == "arm64" {
        Err("is not signed")
    } else {
        Ok(())
    })
}

/// Whether the code directory at this place in the file, or in the set of them there, holds the sums of its pages.
fn signed(file: &[u8], signature: usize) -> Verdict {
    let first_of_set = big_u32_at(file, signature + 16)?;
    let directory = signature + first_of_set;
    let code_directory = 0xfade_0c02;
    let with_sha256 = *file.get(directory + 37)? == 2;
    if big_u32_at(file, directory)? != code_directory || !with_sha256 {
        return Some(Err("is signed in an unknown way"));
    }
    let hashes = directory + big_u32_at(file, directory + 16)?;
    let pages = big_u32_at(file, directory + 28)?;
    let end = big_u32_at(file, directory + 32)?;
    let page_size = 1_usize.checked_shl(u32::from(*file.get(directory + 39)?))?;
    let code = file.get(..end)?;
    if code.len().div_ceil(page_size) != pages {
        return Some(Err("has a signature for another length"));
    }
    for (index, page) in code.chunks(page_size).enumerate() {
        let at = hashes + index * 32;
        if Sha256::digest(page).as_slice() != file.get(at..at + 32)? {
            return Some(Err("has a signature that is not of its bytes"));
        }
    }
    Some(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::RELEASED;

    const LINUX: Platform = RELEASED[0];
    const MAC_AMD64: Platform = RELEASED[2];
    const MAC_ARM64: Platform = RELEASED[3];
    const WINDOWS: Platform = RELEASED[4];

    fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
        file[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn linux_program(machine: u16, segment: u32) -> Vec<u8> {
        let mut file = vec![0; 120];
        put(&mut file, 0, b"\x7fELF");
        put(&mut file, 18, &machine.to_le_bytes());
        put(&mut file, 32, &64_u64.to_le_bytes());
        put(&mut file, 54, &56_u16.to_le_bytes());
        put(&mut file, 56, &1_u16.to_le_bytes());
        put(&mut file, 64, &segment.to_le_bytes());
        file
    }

    /// One page of 4096 bytes, and a signature of it behind it.
    fn mac_program(machine: u32) -> Vec<u8> {
        let mut file = vec![0; 4096 + 20 + 44 + 32];
        put(&mut file, 0, &0xfeed_facf_u32.to_le_bytes());
        put(&mut file, 4, &machine.to_le_bytes());
        put(&mut file, 16, &1_u32.to_le_bytes());
        put(&mut file, 32, &0x1d_u32.to_le_bytes());
        put(&mut file, 40, &4096_u32.to_le_bytes());
        put(&mut file, 4096 + 16, &20_u32.to_be_bytes());
        let directory = 4096 + 20;
        put(&mut file, directory, &0xfade_0c02_u32.to_be_bytes());
        put(&mut file, directory + 16, &44_u32.to_be_bytes());
        put(&mut file, directory + 28, &1_u32.to_be_bytes());
        put(&mut file, directory + 32, &4096_u32.to_be_bytes());
        file[directory + 37] = 2;
        file[directory + 39] = 12;
        let sum = Sha256::digest(&file[..4096]);
        put(&mut file, directory + 44, &sum);
        file
    }

    #[test]
    fn tells_systems_and_machines_apart() {
        let linux = linux_program(0x3e, 1);
        assert_eq!(suits(LINUX, &linux), Ok(()));
        assert!(
            suits(RELEASED[1], &linux)
                .unwrap_err()
                .contains("another machine")
        );
        assert!(suits(WINDOWS, &linux).unwrap_err().contains("for linux"));
        assert!(suits(LINUX, b"#!/bin/sh").unwrap_err().contains("no known kind"));
        for length in 4..64 {
            assert!(suits(LINUX, &linux[..length]).is_err(), "{length}");
        }

        let mut windows = vec![0; 128];
        put(&mut windows, 0, b"MZ");
        put(&mut windows, 0x3c, &64_u32.to_le_bytes());
        put(&mut windows, 64, b"PE\0\0\x64\x86");
        assert_eq!(suits(WINDOWS, &windows), Ok(()));
        assert!(suits(WINDOWS, &windows[..66]).unwrap_err().contains("cut off"));
    }

    #[test]
    fn a_linux_program_is_static() {
        let dynamic = linux_program(0x3e, 3);
        assert!(suits(LINUX, &dynamic).unwrap_err().contains("not static"));
    }

    #[test]
    fn a_program_for_an_arm64_mac_is_signed_over_its_bytes() {
        let good = mac_program(0x0100_000c);
        assert_eq!(suits(MAC_ARM64, &good), Ok(()));
        assert!(suits(MAC_AMD64, &good).unwrap_err().contains("another machine"));

        let mut changed = good.clone();
        changed[2000] = 1;
        assert!(
            suits(MAC_ARM64, &changed)
                .unwrap_err()
                .contains("not of its bytes")
        );

        let mut unsigned = good;
        put(&mut unsigned, 16, &0_u32.to_le_bytes());
        assert!(suits(MAC_ARM64, &unsigned).unwrap_err().contains("not signed"));
        put(&mut unsigned, 4, &0x0100_0007_u32.to_le_bytes());
        assert_eq!(suits(MAC_AMD64, &unsigned), Ok(()));
    }
}
