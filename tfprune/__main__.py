"""python -m tfprune COMMAND …"""
from tfprune.commands import main

if __name__ == '__main__':
    main()
