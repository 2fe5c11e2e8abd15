"""How good an exported model is, measured on the file that is shipped."""
