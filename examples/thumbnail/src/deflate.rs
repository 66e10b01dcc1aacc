//! DEFLATE (RFC 1951) in zlib's wrapping (RFC 1950): decoding in full, encoding with fixed codes.

const LENGTH_BASE: [u16; 29] = [
    3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258,
];
const LENGTH_EXTRA: [u8; 29] = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
const DISTANCE_BASE: [u16; 30] = [
    1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145,
    8193, 12289, 16385, 24577,
];
const DISTANCE_EXTRA: [u8; 30] = [
    0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13,
];
const CODE_LENGTH_ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
const CODE_BITS_MAX: usize = 15;

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    held: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    fn take(&mut self, count: u32) -> Result<u32, String> {
        while self.count < count {
            let byte = *self.bytes.get(self.at).ok_or("compressed data is cut off")?;
            self.at += 1;
            self.held |= u64::from(byte) << self.count;
            self.count += 8;
        }
        let value = (self.held & ((1 << count) - 1)) as u32;
        self.held >>= count;
        self.count -= count;
        Ok(value)
    }

    fn to_byte(&mut self) {
        let odd = self.count % 8;
        self.held >>= odd;
        self.count -= odd;
    }
}

/// A canonical Huffman code: how many codes have each length, and the symbols in code order.
struct Code {
    counts: [u16; CODE_BITS_MAX + 1],
    symbols: Vec<u16>,
}

impl Code {
    fn new(lengths: &[u8]) -> Result<Code, String> {
        let mut counts = [0u16; CODE_BITS_MAX + 1];
        for &length in lengths {
            counts[length as usize] += 1;
        }
        let mut left = 1i32;
        for &count in &counts[1..] {
            left = left * 2 - i32::from(count);
            if left < 0 {
                return Err("a Huffman code has too many words".into());
            }
        }
        let mut offsets = [0usize; CODE_BITS_MAX + 2];
        for length in 1..=CODE_BITS_MAX {
            offsets[length + 1] = offsets[length] + counts[length] as usize;
        }
        let mut symbols = vec![0u16; lengths.len()];
        for (symbol, &length) in lengths.iter().enumerate() {
            if length > 0 {
                symbols[offsets[length as usize]] = symbol as u16;
                offsets[length as usize] += 1;
            }
        }
        Ok(Code { counts, symbols })
    }

    fn next(&self, bits: &mut Bits) -> Result<usize, String> {
        let (mut code, mut first, mut index) = (0i32, 0i32, 0i32);
        for length in 1..=CODE_BITS_MAX {
            code |= bits.take(1)? as i32;
            let count = i32::from(self.counts[length]);
            if code - count < first {
                return Ok(self.symbols[(index + code - first) as usize] as usize);
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        Err("an unknown Huffman code".into())
    }
}

fn fixed_codes() -> Result<(Code, Code), String> {
    let mut lengths = [8u8; 288];
    lengths[144..256].fill(9);
    lengths[256..280].fill(7);
    Ok((Code::new(&lengths)?, Code::new(&[5u8; 30])?))
}

fn dynamic_codes(bits: &mut Bits) -> Result<(Code, Code), String> {
    let literal_count = bits.take(5)? as usize + 257;
    let distance_count = bits.take(5)? as usize + 1;
    let length_count = bits.take(4)? as usize + 4;
    let mut code_lengths = [0u8; 19];
    for &place in &CODE_LENGTH_ORDER[..length_count] {
        code_lengths[place] = bits.take(3)? as u8;
    }
    let code = Code::new(&code_lengths)?;
    let mut lengths: Vec<u8> = Vec::with_capacity(literal_count + distance_count);
    while lengths.len() < literal_count + distance_count {
        let (value, repeat) = match code.next(bits)? {
            16 => (*lengths.last().ok_or("a repeat without a length")?, 3 + bits.take(2)?),
            17 => (0, 3 + bits.take(3)?),
            18 => (0, 11 + bits.take(7)?),
            length => (length as u8, 1),
        };
        lengths.extend(std::iter::repeat(value).take(repeat as usize));
    }
    if lengths.len() > literal_count + distance_count {
        return Err("a repeat goes beyond the codes".into());
    }
    Ok((Code::new(&lengths[..literal_count])?, Code::new(&lengths[literal_count..])?))
}

fn inflate_block(bits: &mut Bits, codes: &(Code, Code), out: &mut Vec<u8>, most: usize) -> Result<(), String> {
    loop {
        let symbol = codes.0.next(bits)?;
        if symbol == 256 {
            return Ok(());
        }
        if out.len() >= most {
            return Err("more pixels than the header says".into());
        }
        if symbol < 256 {
            out.push(symbol as u8);
            continue;
        }
        let place = symbol - 257;
        if place >= LENGTH_BASE.len() {
            return Err("an unknown length".into());
        }
        let length = LENGTH_BASE[place] as usize + bits.take(LENGTH_EXTRA[place].into())? as usize;
        let place = codes.1.next(bits)?;
        if place >= DISTANCE_BASE.len() {
            return Err("an unknown distance".into());
        }
        let distance = DISTANCE_BASE[place] as usize + bits.take(DISTANCE_EXTRA[place].into())? as usize;
        if distance > out.len() {
            return Err("a distance before the beginning".into());
        }
        for _ in 0..length {
            out.push(out[out.len() - distance]);
        }
    }
}

fn inflate_stored(bits: &mut Bits, out: &mut Vec<u8>, most: usize) -> Result<(), String> {
    bits.to_byte();
    let length = bits.take(16)?;
    let check = bits.take(16)?;
    if length ^ check != 0xffff || out.len() + length as usize > most {
        return Err("a stored block is damaged".into());
    }
    for _ in 0..length {
        out.push(bits.take(8)? as u8);
    }
    Ok(())
}

/// Decode a zlib stream of at most `most` bytes.
pub fn decode(bytes: &[u8], most: usize) -> Result<Vec<u8>, String> {
    if bytes.len() < 2 || bytes[0] & 15 != 8 || (u32::from(bytes[0]) << 8 | u32::from(bytes[1])) % 31 != 0 {
        return Err("not a zlib stream".into());
    }
    let mut bits = Bits { bytes, at: 2, held: 0, count: 0 };
    let mut out = Vec::with_capacity(most.min(1 << 20));
    loop {
        let last = bits.take(1)? == 1;
        match bits.take(2)? {
            0 => inflate_stored(&mut bits, &mut out, most)?,
            1 => inflate_block(&mut bits, &fixed_codes()?, &mut out, most)?,
            2 => {
                let codes = dynamic_codes(&mut bits)?;
                inflate_block(&mut bits, &codes, &mut out, most)?;
            }
            _ => return Err("an unknown block type".into()),
        }
        if last {
            return Ok(out);
        }
    }
}

struct Writer {
    out: Vec<u8>,
    held: u32,
    count: u32,
}

impl Writer {
    fn put(&mut self, value: u32, count: u32) {
        self.held |= value << self.count;
        self.count += count;
        while self.count >= 8 {
            self.out.push(self.held as u8);
            self.held >>= 8;
            self.count -= 8;
        }
    }

    /// Huffman codes go most significant bit first.
    fn put_code(&mut self, code: u32, count: u32) {
        self.put(code.reverse_bits() >> (32 - count), count);
    }

    fn put_literal(&mut self, symbol: u32) {
        match symbol {
            0..=143 => self.put_code(0x30 + symbol, 8),
            144..=255 => self.put_code(0x190 + symbol - 144, 9),
            256..=279 => self.put_code(symbol - 256, 7),
            _ => self.put_code(0xc0 + symbol - 280, 8),
        }
    }

    fn put_match(&mut self, length: usize, distance: usize) {
        let place = LENGTH_BASE.iter().rposition(|&base| base as usize <= length).unwrap_or(0);
        self.put_literal(257 + place as u32);
        self.put((length - LENGTH_BASE[place] as usize) as u32, LENGTH_EXTRA[place].into());
        let place = DISTANCE_BASE.iter().rposition(|&base| base as usize <= distance).unwrap_or(0);
        self.put_code(place as u32, 5);
        self.put((distance - DISTANCE_BASE[place] as usize) as u32, DISTANCE_EXTRA[place].into());
    }
}

fn adler32(bytes: &[u8]) -> u32 {
    let (mut a, mut b) = (1u32, 0u32);
    for chunk in bytes.chunks(5552) {
        for &byte in chunk {
            a += u32::from(byte);
            b += a;
        }
        a %= 65521;
        b %= 65521;
    }
    b << 16 | a
}

/// Encode as one block of fixed codes, with the nearest earlier match of each three bytes.
pub fn encode(bytes: &[u8]) -> Vec<u8> {
    let mut writer = Writer { out: vec![0x78, 0x01], held: 0, count: 0 };
    let mut seen = vec![usize::MAX; 1 << 15];
    writer.put(1, 1);
    writer.put(1, 2);
    let mut at = 0;
    while at < bytes.len() {
        let mut length = 0;
        let mut distance = 0;
        if at + 3 <= bytes.len() {
            let key = u32::from(bytes[at]) | u32::from(bytes[at + 1]) << 8 | u32::from(bytes[at + 2]) << 16;
            let place = (key.wrapping_mul(0x9e37_79b1) >> 17) as usize;
            let before = seen[place];
            seen[place] = at;
            if before != usize::MAX && at - before <= 32768 {
                let most = (bytes.len() - at).min(258);
                length = (0..most).take_while(|&i| bytes[before + i] == bytes[at + i]).count();
                distance = at - before;
            }
        }
        if length >= 3 {
            writer.put_match(length, distance);
            at += length;
        } else {
            writer.put_literal(bytes[at].into());
            at += 1;
        }
    }
    writer.put_literal(256);
    writer.put(0, 7);
    writer.out.extend_from_slice(&adler32(bytes).to_be_bytes());
    writer.out
}
