// Where the compiler looks for "@blixard/sdk".
export * from "./assembly/index";
