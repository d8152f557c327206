"""An image again, its layers compressed another way: same files, same image ID, faster to unpack."""
