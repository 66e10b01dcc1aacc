// How often a page was clicked, and the sequence of the last record that is counted: "CLICKS SEQUENCE".

export class Count {
  constructor(
    readonly clicks: u64,
    readonly last: u64,
  ) {}

  static parse(text: string | null): Count {
    if (text === null) return new Count(0, 0);
    const parts = text.split(" ");
    return parts.length == 2 ? new Count(U64.parseInt(parts[0]), U64.parseInt(parts[1])) : new Count(0, 0);
  }

  // With one more, unless that one is in it.
  add(sequence: u64): Count {
    return sequence > this.last ? new Count(this.clicks + 1, sequence) : this;
  }

  toString(): string {
    return this.clicks.toString() + " " + this.last.toString();
  }
}
