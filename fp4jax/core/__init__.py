"""What an NVFP4 number is, and how an array becomes one."""
