"""How many workers should there be, and what would each way of deciding it have cost and made runs wait?"""
