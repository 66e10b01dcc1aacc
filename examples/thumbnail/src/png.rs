//! PNG (W3C Recommendation, second edition): every colour type at 8 bits, and 1 to 8 bit palettes and
//! greys; not interlaced.  Writes RGBA.

use crate::deflate;

const SIGNATURE: [u8; 8] = [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a];
const PIXELS_MAX: usize = 24 << 20;

/// Red, green, blue, alpha; rows from the top.
pub struct Image {
    pub width: usize,
    pub height: usize,
    pub pixels: Vec<[u8; 4]>,
}

struct Header {
    width: usize,
    height: usize,
    depth: usize,
    channels: usize,
    colour: u8,
}

fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn read_header(data: &[u8]) -> Result<Header, String> {
    if data.len() != 13 {
        return Err("the header has a wrong size".into());
    }
    let (width, height) = (be32(data) as usize, be32(&data[4..]) as usize);
    let (depth, colour) = (data[8] as usize, data[9]);
    let channels = match colour {
        0 | 3 => 1,
        2 => 3,
        4 => 2,
        6 => 4,
        _ => return Err(format!("colour type {} does not exist", colour)),
    };
    if data[12] != 0 {
        return Err("interlaced images are not supported".into());
    }
    if !(depth == 8 || (channels == 1 && matches!(depth, 1 | 2 | 4))) {
        return Err(format!("{} bits per sample are not supported", depth));
    }
    if width == 0 || height == 0 || width.saturating_mul(height) > PIXELS_MAX {
        return Err(format!("an image of {}x{} is too large", width, height));
    }
    Ok(Header { width, height, depth, channels, colour })
}

fn paeth(left: u8, up: u8, corner: u8) -> u8 {
    let (a, b, c) = (i16::from(left), i16::from(up), i16::from(corner));
    let estimate = a + b - c;
    let (da, db, dc) = ((estimate - a).abs(), (estimate - b).abs(), (estimate - c).abs());
    if da <= db && da <= dc {
        left
    } else if db <= dc {
        up
    } else {
        corner
    }
}

/// Undo a row's filter (section 9 of the specification); `step` is the bytes of one pixel.
fn unfilter(kind: u8, row: &mut [u8], above: &[u8], step: usize) -> Result<(), String> {
    for i in 0..row.len() {
        let left = if i >= step { row[i - step] } else { 0 };
        let corner = if i >= step { above[i - step] } else { 0 };
        let guess = match kind {
            0 => 0,
            1 => left,
            2 => above[i],
            3 => ((u16::from(left) + u16::from(above[i])) / 2) as u8,
            4 => paeth(left, above[i], corner),
            _ => return Err(format!("row filter {} does not exist", kind)),
        };
        row[i] = row[i].wrapping_add(guess);
    }
    Ok(())
}

fn sample(row: &[u8], index: usize, depth: usize) -> u8 {
    let bit = index * depth;
    (row[bit / 8] >> (8 - depth - bit % 8)) & (0xffu16 >> (8 - depth)) as u8
}

fn pixel(header: &Header, row: &[u8], x: usize, palette: &[[u8; 4]]) -> Result<[u8; 4], String> {
    let at = x * header.channels;
    Ok(match header.colour {
        0 => {
            let most = (1u16 << header.depth) - 1;
            let grey = (u16::from(sample(row, x, header.depth)) * 255 / most) as u8;
            [grey, grey, grey, 255]
        }
        2 => [row[at], row[at + 1], row[at + 2], 255],
        3 => *palette.get(sample(row, x, header.depth) as usize).ok_or("a colour outside the palette")?,
        4 => [row[at], row[at], row[at], row[at + 1]],
        _ => [row[at], row[at + 1], row[at + 2], row[at + 3]],
    })
}

fn read_pixels(header: &Header, data: &[u8], palette: &[[u8; 4]]) -> Result<Image, String> {
    let row_bytes = (header.width * header.channels * header.depth + 7) / 8;
    let step = (header.channels * header.depth + 7) / 8;
    let mut raw = deflate::decode(data, (row_bytes + 1) * header.height)?;
    if raw.len() < (row_bytes + 1) * header.height {
        return Err("the image is cut off".into());
    }
    let mut above = vec![0u8; row_bytes];
    let mut pixels = Vec::with_capacity(header.width * header.height);
    for line in raw.chunks_exact_mut(row_bytes + 1) {
        let (kind, row) = (line[0], &mut line[1..]);
        unfilter(kind, row, &above, step)?;
        for x in 0..header.width {
            pixels.push(pixel(header, row, x, palette)?);
        }
        above.copy_from_slice(row);
    }
    Ok(Image { width: header.width, height: header.height, pixels })
}

pub fn decode(bytes: &[u8]) -> Result<Image, String> {
    if bytes.len() < 8 || bytes[..8] != SIGNATURE {
        return Err("not a PNG".into());
    }
    let (mut header, mut palette, mut data) = (None, Vec::new(), Vec::new());
    let mut rest = &bytes[8..];
    while rest.len() >= 12 {
        let length = be32(rest) as usize;
        let chunk = rest.get(8..).and_then(|r| r.get(..length)).ok_or("a chunk is cut off")?;
        match &rest[4..8] {
            b"IHDR" => header = Some(read_header(chunk)?),
            b"PLTE" => palette = chunk.chunks_exact(3).map(|c| [c[0], c[1], c[2], 255]).collect(),
            b"tRNS" => palette.iter_mut().zip(chunk).for_each(|(colour, &alpha)| colour[3] = alpha),
            b"IDAT" => data.extend_from_slice(chunk),
            b"IEND" => break,
            _ => {}
        }
        rest = rest.get(length + 12..).ok_or("a chunk is cut off")?;
    }
    read_pixels(&header.ok_or("there is no header")?, &data, &palette)
}

fn crc32(kind: &[u8], data: &[u8]) -> u32 {
    let mut crc = !0u32;
    for &byte in kind.iter().chain(data) {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

fn put_chunk(out: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) {
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(kind);
    out.extend_from_slice(data);
    out.extend_from_slice(&crc32(kind, data).to_be_bytes());
}

pub fn encode(image: &Image) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend_from_slice(&(image.width as u32).to_be_bytes());
    header.extend_from_slice(&(image.height as u32).to_be_bytes());
    header.extend_from_slice(&[8, 6, 0, 0, 0]);

    let mut raw = Vec::with_capacity((image.width * 4 + 1) * image.height);
    for row in image.pixels.chunks(image.width) {
        raw.push(1); /* each pixel as the difference to its left neighbour */
        let mut left = [0u8; 4];
        for pixel in row {
            for i in 0..4 {
                raw.push(pixel[i].wrapping_sub(left[i]));
            }
            left = *pixel;
        }
    }
    let mut out = SIGNATURE.to_vec();
    put_chunk(&mut out, b"IHDR", &header);
    put_chunk(&mut out, b"IDAT", &deflate::encode(&raw));
    put_chunk(&mut out, b"IEND", &[]);
    out
}
