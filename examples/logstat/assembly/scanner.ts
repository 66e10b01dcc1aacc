// The fields of one JSON object on one line (RFC 8259): strings and numbers at its top level; what is
// nested is skipped.

export class Fields {
  strings: Map<string, string> = new Map();
  numbers: Map<string, f64> = new Map();

  text(name: string): string {
    return this.strings.has(name) ? this.strings.get(name) : "";
  }

  number(name: string, otherwise: f64): f64 {
    return this.numbers.has(name) ? this.numbers.get(name) : otherwise;
  }
}

const QUOTE: i32 = 0x22;
const BACKSLASH: i32 = 0x5c;

export class Scanner {
  private at: i32 = 0;

  constructor(private line: string) {}

  private peek(): i32 {
    return this.at < this.line.length ? this.line.charCodeAt(this.at) : -1;
  }

  private blank(): void {
    while (this.peek() == 0x20 || this.peek() == 0x09 || this.peek() == 0x0d) this.at++;
  }

  private accept(char: i32): bool {
    this.blank();
    if (this.peek() != char) return false;
    this.at++;
    return true;
  }

  // Behind the opening quote; returns null when the line ends inside.
  private string(): string | null {
    let from = this.at;
    let text = "";
    while (this.at < this.line.length) {
      const char = this.peek();
      if (char == QUOTE) {
        text += this.line.substring(from, this.at);
        this.at++;
        return text;
      }
      if (char == BACKSLASH) {
        text += this.line.substring(from, this.at);
        this.at++;
        text += this.escape();
        from = this.at;
      } else {
        this.at++;
      }
    }
    return null;
  }

  private escape(): string {
    const char = this.peek();
    this.at++;
    if (char == 0x6e) return "\n";
    if (char == 0x74) return "\t";
    if (char == 0x72) return "\r";
    if (char == 0x62) return "\b";
    if (char == 0x66) return "\f";
    if (char == 0x75) {
      const code = <i32>parseInt(this.line.substring(this.at, this.at + 4), 16);
      this.at += 4;
      return String.fromCharCode(code);
    }
    return String.fromCharCode(char);
  }

  private word(): string {
    const from = this.at;
    while (this.at < this.line.length && ",}] \t\r".indexOf(this.line.charAt(this.at)) < 0) this.at++;
    return this.line.substring(from, this.at);
  }

  private skipNested(): bool {
    let depth = 0;
    while (this.at < this.line.length) {
      const char = this.peek();
      this.at++;
      if (char == QUOTE) {
        if (this.string() == null) return false;
      } else if (char == 0x7b || char == 0x5b) {
        depth++;
      } else if (char == 0x7d || char == 0x5d) {
        if (--depth == 0) return true;
      }
    }
    return false;
  }

  // One value into `fields`; false when the line is broken.
  private value(name: string, fields: Fields): bool {
    this.blank();
    const char = this.peek();
    if (char == QUOTE) {
      this.at++;
      const text = this.string();
      if (text == null) return false;
      fields.strings.set(name, text);
      return true;
    }
    if (char == 0x7b || char == 0x5b) return this.skipNested();
    const word = this.word();
    if (word == "true" || word == "false" || word == "null") return true;
    const number = parseFloat(word);
    if (isNaN(number)) return false;
    fields.numbers.set(name, number);
    return true;
  }

  // The object, or null when the line is not one.
  object(): Fields | null {
    const fields = new Fields();
    if (!this.accept(0x7b)) return null;
    if (this.accept(0x7d)) return fields;
    do {
      if (!this.accept(QUOTE)) return null;
      const name = this.string();
      if (name == null || !this.accept(0x3a) || !this.value(name, fields)) return null;
    } while (this.accept(0x2c));
    return this.accept(0x7d) ? fields : null;
  }
}
